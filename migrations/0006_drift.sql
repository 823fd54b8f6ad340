-- Each machine's sweep resolves what it has found itself. Nothing is taken away: the release before writes no machine.

alter table cms.drift_findings add column host text;
comment on column cms.drift_findings.host is 'The machine it was found on, where only that one can see it.';
