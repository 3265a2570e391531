"""Parts of `flows.household`: homes, the battery, plans by linear programmes, policies, the picture."""
