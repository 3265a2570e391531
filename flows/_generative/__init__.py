"""Parts of `flows.generative`: circuits as sequences of tokens, the transformer that proposes them."""
