"""The programs, one file each: parse, call, write."""
