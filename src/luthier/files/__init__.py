"""Files and folders written whole or not at all; JSON and protobuf read with bounds; what a file is."""
