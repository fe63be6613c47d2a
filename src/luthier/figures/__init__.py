"""The course's pictures, each from the package's own modules and real runs, with its data beside it."""
