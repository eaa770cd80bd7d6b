"""Everything about the composed configuration.

app                 the Hydra application that all commands share
schema/             types and ranges of all keys
hydra_messages      errors of Hydra in one sentence; with suggestions of similar keys
path_arguments      paths on the command line
new_folders         directories named after the time
stored, resume      the configuration that a run directory keeps, and what may change when the run is resumed
chosen              which values the user chose, and which are defaults
resolvers           functions that values in conf/ are computed by
class_names         names of classes, looked up in the data
"""
