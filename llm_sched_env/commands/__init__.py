"""The commands of ``llmsched``, one file each."""
