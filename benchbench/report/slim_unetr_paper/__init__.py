"""Tables and claims of the Slim UNETR paper (IEEE TMI 2023), beside what was measured."""
