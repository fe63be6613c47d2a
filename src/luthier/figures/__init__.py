"""The course's figures, each drawn from the package's own modules and real runs, with its data beside it."""
