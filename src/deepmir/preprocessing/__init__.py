"""From scans as read to channels on one grid, with brain mask and regions."""
