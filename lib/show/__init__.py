"""What people look at: pictures (PNG), interactive pages and report pages, each one file that needs nothing else."""
