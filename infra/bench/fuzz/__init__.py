"""`longrank bench fuzz`: whatever comes in is accepted or becomes a dead letter; the job does not even restart."""
