"""What tests share: made-up data, workdirs, formulas to compare with."""
