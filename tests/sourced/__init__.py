"""Published mistakes, by lesson."""
