"""Set-up of a checkout, before anything is installed: standard library only."""
