"""MatConvNet's names with their MATLAB manners: option pairs, empty arguments, numbers from 1."""
