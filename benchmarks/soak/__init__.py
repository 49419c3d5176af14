"""A cluster under mixed load with seeded faults for as long as wanted: does anything grow, slow down or get lost?"""
