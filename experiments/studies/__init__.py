"""Studies: many training runs that answer one question, described by a YAML file, with one file of results."""
