"""The command line: reads `Config` once, builds the parts, turns errors into exit codes."""
