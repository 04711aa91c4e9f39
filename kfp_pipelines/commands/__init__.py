"""The `darkroom pipeline` and `darkroom demo` commands, found by the entry-point group darkroom.commands."""
