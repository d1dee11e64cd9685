"""Tables, figures and pages over run directories. Imports no torch: a report needs none."""
