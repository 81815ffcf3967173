"""A run behind a web page and a JSON API, for this machine; all but its options needs the extra `serve`."""
