"""Training that makes a context longer: at which positions a model learns, and what a trainer must keep to."""
