"""Parts of `flows.sensing`: logs, the model of an atom interferometer, navigation, the picture."""
