"""What a person starts: the command line, the local stack and the demonstration."""
