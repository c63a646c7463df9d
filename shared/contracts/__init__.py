"""What the processes agree on: the step table, the options of each step, the messages, the names of states."""
