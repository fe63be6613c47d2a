"""One file a family: Config, sizes, builder and names in each format; the registry; what families share."""
