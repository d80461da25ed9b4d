"""The store: media files and collections, jobs and their results, job events."""
