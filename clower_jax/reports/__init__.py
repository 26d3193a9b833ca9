"""What a run was and came to, for people: pictures, and report.html with everything on one page."""
