"""Load tests: ghz or our open-loop generator on the same configs, one gate on either's report, capacity.

Errors: LoadTestError
    ConfigError     a ghz config, a limit or an argument is unusable; names the key and the fix
    ReportError     a report is no ghz report
    RunError        the tool or a server did not do its part
"""
