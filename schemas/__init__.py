"""What passes between the steps and what lies on disk. Imports nothing else of textsmooth, and no heavy library."""
