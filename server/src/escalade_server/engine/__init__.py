"""The shell. Waits. Turns the core's commands into I/O, and I/O into its events."""
