"""Model families, one file each (config, sizes, builder, weight tables); the registry; what families share."""
