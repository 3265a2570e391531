"""One module per version of the schema, each the step from the one before."""
