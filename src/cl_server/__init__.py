"""The services and what people touch: auth, store, worker, command line, client."""
