"""Atomic files and folders; bounded reading of JSON and protobuf; downloads; file type checks."""
