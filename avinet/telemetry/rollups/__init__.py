"""What all service engines have reported, added up and kept in tiers of time, so that dashboards need no pull.

Reports flow in (`keeper`), each slot of 10 s goes to a file as a whole (`file`), and series come out (`reading`); what
is added up, and how, is in `sums`.
"""
