"""The strategy file: YAML to typed model to the core's catalog; errors with line and mend."""
