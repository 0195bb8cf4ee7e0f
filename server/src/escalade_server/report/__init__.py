"""Numbers to text: pure."""
