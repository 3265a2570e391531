"""Where classical stages run: Dask workers of the site."""
