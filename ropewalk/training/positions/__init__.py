"""One file per way to lay tokens out for training: which of a text, at which positions, with which loss weight."""
