"""The crash matrix: which faults there are, the ground that one is tried on, what came of it, and the page."""
