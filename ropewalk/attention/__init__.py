"""Rotation at attention time, for methods whose frequencies depend on the length, the head or the query."""
