"""Many runs looked at together: reports, tables, matrices. Reads run folders; imports only `vlm`."""
