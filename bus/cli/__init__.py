"""The command ``bus``: one file per command, which parses, calls one public function and prints."""
