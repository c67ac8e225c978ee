"""What instructors run: grade, record, release and report. See README.md here."""
