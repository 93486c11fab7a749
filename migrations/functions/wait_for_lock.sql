-- Takes an advisory lock until the end of the transaction. Any role may hold such a lock for any time, so after
-- 10 s this fails and names the sessions that hold it. p_what describes the lock.
-- Locks: the advisory lock (waits 10 s).
create or replace function conductor.wait_for_lock(p_key bigint, p_shared boolean, p_what text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '10s'
as $$
declare
    v_holders text;
    v_pid integer;
begin
    if p_shared then
        perform pg_advisory_xact_lock_shared(p_key);
    else
        perform pg_advisory_xact_lock(p_key);
    end if;
exception when lock_not_available then
    select string_agg(format('process %s (role %s, application "%s")', k.pid, a.usename, a.application_name), ', '),
           min(k.pid)
      into v_holders, v_pid
      from pg_locks k
      left join pg_stat_activity a on a.pid = k.pid
     where k.locktype = 'advisory' and k.granted and k.objsubid = 1
       and k.database = (select d.oid from pg_database d where d.datname = current_database())
       and k.classid::bigint = (p_key >> 32) & 4294967295 and k.objid::bigint = p_key & 4294967295;
    raise exception '% has not been free for 10 s: %', p_what,
        coalesce(format('%s has it; if that is not to be, end it: select pg_terminate_backend(%s)', v_holders, v_pid),
                 'somebody has had it until now; try again')
        using errcode = 'lock_not_available';
end
$$;
