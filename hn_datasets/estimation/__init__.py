"""How many mined negatives are right answers: estimates, calibration of a method's number, and a survey of methods."""
