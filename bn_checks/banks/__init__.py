"""Banks: for each lesson its exercises, their cases, properties and known mistakes."""
