"""What CL Server costs: jobs per second beside the bare driver, claims under load, starting up."""
