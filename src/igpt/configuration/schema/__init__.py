"""One typed schema of the configuration of every command; its parts mirror the groups of conf/."""
