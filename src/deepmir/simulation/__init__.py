"""Labelled persons from physics: anatomy, tissue, vessels, findings, acquisition."""
