"""The paper's study on data that can be shared: arms, folds, tables and a page."""
