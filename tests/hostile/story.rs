//! One call at least of each function that takes texts. `{n}` is the hostile text, in each place where a
//! text may stand; `{a}` to `{i}` are ids of its own. Each statement says itself whether all was as it
//! should be.

/// Abbreviations, put in one after the other.
pub(super) const WORDS: &[(&str, &str)] = &[
    (
        "{declaration}",
        "jsonb_build_array(jsonb_build_object(
             'name', {n}, 'queue', {n}, 'package', {n}, 'place', {n}, 'docs', {n}, 'priority', 0,
             'max_attempts', 1, 'backoff_initial_ms', 1, 'backoff_max_ms', 1, 'jitter', 0,
             'keep_completed_ms', 1e9, 'keep_failed_ms', 1e9, 'payload_schema', {n}, 'output_schema', {n},
             'limits', jsonb_build_array(
                 jsonb_build_object('kind', 'concurrency', 'path', array[{n}], 'amount', 9))))",
    ),
    (
        "{filter}",
        "jsonb_build_object('op', 'eq', 'path', array[{n}], 'value', {n})",
    ),
    (
        "{change}",
        "jsonb_build_object('op', 'eq', 'path', array['new', {n}], 'value', {n})",
    ),
    ("{payload}", "json_build_object({n}, {n})::text"),
    ("{value}", "to_json({n})::text"),
    (
        "{task}",
        "(select t.id from conductor.tasks t where t.name = {n})",
    ),
    (
        "{queue}",
        "(select q.id from conductor.queues q where q.name = {n})",
    ),
    (
        "{limit}",
        "(select c.id from conductor.limits c join conductor.tasks t on t.id = c.task_id where t.name = {n})",
    ),
    (
        "{orchestrator}",
        "(select o.id from conductor.orchestrators o where o.host = {n})",
    ),
    ("{table}", "format('%I', {n})::regclass"),
    ("{times}", "array[null]::timestamptz[]"),
    ("{numbers}", "array[null]::bigint[]"),
    ("{priorities}", "array[null]::integer[]"),
    ("{a}", "md5('a' || {n})::uuid"),
    ("{b}", "md5('b' || {n})::uuid"),
    ("{c}", "md5('c' || {n})::uuid"),
    ("{d}", "md5('d' || {n})::uuid"),
    ("{e}", "md5('e' || {n})::uuid"),
    ("{f}", "md5('f' || {n})::uuid"),
    ("{g}", "md5('g' || {n})::uuid"),
    ("{h}", "md5('h' || {n})::uuid"),
    ("{i}", "md5('i' || {n})::uuid"),
    ("{n}", "$1::text"),
];

/// In this order, each in a transaction of its own: the function, and a call of it.
pub(super) const STORY: &[(&str, &str)] = &[
    ("declare_tasks", "select count(*) = 1 from conductor.declare_tasks({declaration}, true) t where t.name = {n}"),
    ("declare_missing", "select conductor.declare_missing({declaration})::text = ''"),
    ("declare_limits", "select conductor.declare_limits({declaration})::text = ''"),
    ("declared_limits", "select count(*) = 1 from conductor.declared_limits({declaration}) d where d.path = array[{n}]"),
    ("write_shared_limits", "select conductor.write_shared_limits({declaration}) = '{}'"),
    ("write_limits", "select conductor.write_limits({declaration}) = '{}'"),
    ("drop_limits", "select (conductor.drop_limits({declaration})).gone = '{}'"),
    ("write_tasks", "select conductor.write_tasks({declaration}, true)::text = ''"),
    ("note_moves", "select conductor.note_moves({declaration}) = '{}'"),
    ("refuse_unknown", "select conductor.refuse_unknown(array[{n}])::text = ''"),
    ("know_tasks", "select conductor.know_tasks(array[{n}])::text = ''"),
    ("start_orchestrator", "select conductor.start_orchestrator({n}, 1, array[{queue}], array[{task}], '1 hour') > 0"),
    ("take_chore", "select count(*) = 0 from conductor.take_chore({n}, '1 hour')"),
    ("leave_chore", "select conductor.leave_chore({n}, null, true)::text is null"),
    // Executions: a, c and d run; b too, and then waits.
    ("invoke_many", "select r.ids is null from conductor.invoke_many(
         array[{a}, {b}], array[{n}, {n}], array[{payload}, {payload}], {times} || {times}, {numbers} || {numbers},
         {priorities} || {priorities}, false, false) r"),
    // The same calls again.
    ("invoke_new", "select conductor.invoke_new(
         array[{a}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false)::text = ''"),
    ("invoke_one", "select conductor.invoke_one({a}, {n}, {payload}, null, null, null, false)::text = ''"),
    ("invoke_again", "select conductor.invoke_again(
         array[{a}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false)::text = ''"),
    ("refuse_invokes", "select conductor.refuse_invokes(
         array[{a}], array[{n}], array[{payload}], {times}, {numbers})::text = ''"),
    ("invoke_keyed", "select r.ids is null from conductor.invoke_keyed(
         array[{c}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false, array[{n}], {numbers},
         {numbers}) r"),
    ("invoke_one_keyed", "select not conductor.invoke_one_keyed({e}, {n}, {payload}, null, null, null, false, {n})"),
    ("refuse_keyed", "select conductor.refuse_keyed(array[{e}], array[{payload}], {times}, {numbers}, array[{n}], {numbers},
         {numbers}, {numbers})::text = ''"),
    ("fold_calls", "select (conductor.fold_calls(array[{e}], array[{n}], array[{payload}], {times}, {numbers}, {priorities},
         array[{n}], {numbers}, {numbers})).keys = array[{n}]"),
    ("hold_keyed", "select (conductor.hold_keyed(array[{task}], array[false], array[{n}])).locked = array[{c}]"),
    ("insert_keyed", "select r.made is null from conductor.insert_keyed(array[{e}], array[{n}], array[{payload}], {times},
         {numbers}, {priorities}, array[{n}], {numbers}, {numbers}, clock_timestamp(), true) r"),
    ("check_and_meet_keys", "select (r.ids, r.came_of) = (array[{c}], array['replaced']) from conductor.check_and_meet_keys(
         array[{e}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, true, array[{n}], {numbers}, {numbers},
         clock_timestamp(), null) r"),
    ("meet_keys", "select (r.ids, r.came_of) = (array[{c}], array['replaced']) from conductor.meet_keys(
         array[{e}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false, array[{n}], {numbers},
         {numbers}, clock_timestamp()) r"),
    ("invoke_mixed", "select (r.ids, r.came_of) = (array[{d}], array['created']) from conductor.invoke_mixed(
         array[{d}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false, false, array[{n} || '2'],
         array[3600000], {numbers}, {numbers}) r"),
    ("invoke_many", "select (r.ids, r.came_of) = (array[{d}], array['throttled']) from conductor.invoke_many(
         array[{e}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false, false, array[{n} || '2'],
         array[3600000], {numbers}) r"),
    ("answer_again", "select (r.ids, r.came_of) = (array[{c}], array['created'])
         from conductor.answer_again(array[{c}], array[{n}], array[{n}], {numbers}) r"),
    ("invoke_with_keys", "select (r.ids, r.came_of) = (array[{d}], array['throttled']) from conductor.invoke_with_keys(
         array[{e}], array[{n}], array[{payload}], {times}, {numbers}, {priorities}, false, false, array[{n} || '2'],
         array[3600000], {numbers}, {numbers}) r"),
    ("take_slots", "select conductor.take_slots(array[{e}], array[{n}], array[{n} || '2'], array[3600000], array[null],
         clock_timestamp()) = array[{d}]"),
    ("close_slots", "select (r.ids, r.came_of) = (array[{d}], array['throttled']) from conductor.close_slots(
         array[{e}], array[{n}], array[{n} || '2'], array[{d}], array[null::uuid], array[null]) r"),
    ("admit", "select (conductor.admit({orchestrator}, array[{a}], array[{task}], array[{n}], 1, clock_timestamp(), 9,
                                       '{}', '{}', '{}', '{}')).ids = array[{a}]"),
    ("make_lanes", "select (conductor.make_lanes({orchestrator}, array[{limit}], array[{n}], array[7], array['concurrency'],
                                                 array[1], array[1], array[0], 1)).made = '{}'"),
    ("rank_in_lanes", "select (conductor.rank_in_lanes(array[{a}], 1, clock_timestamp(), array[1], array[7], array[7], array[1],
         array['concurrency'], array[null]::timestamptz[], array[null]::interval[], array[null]::interval[], '{}')).ids = array[{a}]"),
    ("take_lanes", "select (conductor.take_lanes({orchestrator}, array[7], array[{limit}], array[{n}], array['concurrency'], array[0],
         array[1], array[0], array[null]::timestamptz[], array[null]::interval[], array[1], array[1], '{}', '{}', '{}', '{}',
         '{}')).grown_keys = array[{n}]"),
    ("unreadable_of", "select conductor.unreadable_of(array[{a}], array[{task}], array[{n}], array[{task}], '{}') = '{}'"),
    ("roomy_lanes", "select conductor.roomy_lanes(array[{task}], array[{n}], array[{task}], array[1], array[7, 8], array[2, 1],
                                                  array[{n}, {n}]) = array[8]"),
    ("take_turns", "select (conductor.take_turns(array[{a}], array[{task}], array[{n}])).keys = array[{n}]"),
    ("give_turns", "select (conductor.give_turns(array[{task}], array[{n}])).tasks is null"),
    ("pass_turns", "select conductor.pass_turns(array[{a}], array[{task}], array[{n}]) is null"),
    ("finish_and_claim", "select array_agg(r.id order by r.id) filter (where r.id is not null)
              = (select array_agg(k order by k) from unnest(array[{a}, {b}, {c}, {d}]) k)
              and count(r.id) = count(*) filter (where r.payload = {payload}) from conductor.finish_and_claim(
         '{}', '{}', array[{n}], '{}', '{}', array[{n}], '{}', '{}', '{}', {orchestrator}, {queue}, array[{task}],
         '{}', '{}', '{}', 100, false, '{}', '{}', '{}', 9, '{}', '{}', '{}', '{}', array[{n}], 0) r"),
    ("claim", "select count(r.id) = 0 from conductor.claim({orchestrator}, {queue}, array[{task}], 9, false,
         p_roomy => array[7], p_roomy_limits => array[1], p_roomy_keys => array[{n}]) r"),
    ("claim_gated", "select count(r.id) = 0 from conductor.claim_gated(
         {orchestrator}, {queue}, array[{task}], 9, true, false, '{}', '{}', '{}', '{}', '{}', '{}', 9, '{}', '{}', array[7],
         array[1], array[{n}], 9, null, null) r"),
    ("due_gated", "select (conductor.due_gated({queue}, 0, array[{task}], null, clock_timestamp(), 9, array[{task}], '{}', true,
         array[{n}], array[{task}], array[{n}])).ids = '{}'"),
    ("due_in_lanes", "select (conductor.due_in_lanes({queue}, 0, array[{task}], clock_timestamp(), 9, array[{n}], array[7], array[9],
         row(array[{a}], array[{task}], array[{n}], array[1], 1, 1, true, null, true, false, false))).ids = array[{a}]"),
    ("take", "select count(*) = 0 from conductor.take({orchestrator}, '{}', false, clock_timestamp(), '{}', array[{n}]) r
               where r.id = {a}"),
    ("closing_row", "select lane_keys = array[{n}] from conductor.closing_row('{}', '{}', '{}', '{}', false, '1 s', '{7}', '{1}',
         '{1}', array[{n}])"),
    ("invoke", "select conductor.invoke({n}, jsonb_build_object({n}, {n}), dedupe_key => {n} || '3') is not null"),
    ("lane_runs", "select cardinality(conductor.lane_runs({task}, array[{n}], {n}, clock_timestamp(), 9)) = 4"),
    ("record_steps", "select conductor.record_steps(array[{a}], array[1], array[{n}], array[{n}], array[{value}]) = '{t}'"),
    ("record_in_transaction", "select conductor.record_in_transaction({a}, 1, {n} || '2', {n}, {value})::text = ''"),
    ("recorded", "select conductor.recorded({a}, {n})"),
    // b waits for three events and for a child, f.
    ("suspend", "select conductor.suspend(
         array[{b}], array[1], array_fill({b}, array[4]), array[{n}, {n} || '2', {n} || '3', {n} || '4'],
         array[{n}, {n}, {n}, 'event'], array[{n}, {n}, {n}, {n}], array_fill(null::bigint, array[4]),
         array_fill(null::timestamptz, array[4]), array[null, {f}, null, null], array[null, {n}, null, null],
         array[null, {payload}, null, null], array_fill(false, array[4]), array[{n}, null, {n}, {n}],
         array[{filter}::text, null, {filter}::text, {filter}::text]) = 1"),
    ("mark_suspended", "select conductor.mark_suspended('{}', '{}', '{}', '{}', array[{n}], '{}', array[{n}], array[{n}],
         clock_timestamp()) = 0"),
    ("waits_to_serve", "select count(*) = 1 from conductor.waits_to_serve(array[{b}], array[{n}], array[{n}])"),
    ("wait_beside", "select conductor.wait_beside(
         array[{b}], array[-1], array[{b}], array[{n}], array[{n}], array[{n}], array[null::bigint],
         array[null::timestamptz], array[null::uuid], array[{n}], array[{payload}], array[false], array[{n}],
         array[{filter}::text]) = array[false]"),
    ("begin_waits", "select (conductor.begin_waits(
         '{}', array[{b}], array[{n}], array[{n}], array[{n}], array[null::bigint],
         array[null::timestamptz], array[null::uuid], array[{n}], array[{payload}], array[false], array[{n}],
         array[{filter}::text], array[{b}], array[{n} || '9'], clock_timestamp())).fresh is null"),
    ("read_log", "select conductor.read_log('{}', array[{b}], array[{n}], array[{n}], null, null, null, clock_timestamp())::text = ''"),
    ("look_beside", "select count(*) = 0 from conductor.look_beside(array[{b}], array[-1], array[{b}], array[{n} || '9'])"),
    ("end_astray", "select conductor.end_astray(array[{b}], array[{b}], array[1], array[{n}]) = array[{b}]"),
    ("counted_before", "select conductor.counted_before(array[{b}], array[{b}], array[{n} || '9']) = '{}'"),
    ("forget_errors", "select conductor.forget_errors(array[{b}], array[{b}], array[{n} || '9'])::text = ''"),
    ("report", "select conductor.report(array[{f}], array[{b}], array[{n} || '2'], array[{value}])::text = ''"),
    ("conclude", "select conductor.conclude(array[{f}], 'failed', {n})::text = ''"),
    // Events: g, h, and one whose id is the server's.
    ("lock_events", "select conductor.lock_events(array[{n}], true)::text = ''"),
    ("declare_subscriptions", "select conductor.declare_subscriptions(
         array[{n}], array[{task}], jsonb_build_array(jsonb_build_object(
             'task', {n}, 'event', {n}, 'n', 0, 'filter', {filter}, 'event_version', 1, 'owner', {n})),
         jsonb_build_array(jsonb_build_object(
             'name', {n}, 'version', 1, 'package', {n}, 'place', {n}, 'docs', {n}, 'schema', {n}, 'keep_ms', 1e9))
         )::text = ''"),
    ("log_time", "select conductor.log_time(array[{n}]) > '2000-01-01'"),
    ("start_subscribers", "select conductor.start_subscribers(array[{g}], array[{n}], array[{payload}], '{}', array[{n}],
         clock_timestamp()) is null"),
    ("publish", "select conductor.publish(array[{g}], array[{n}], array[{payload}])::text = ''"),
    ("note_event_fields", "select conductor.note_event_fields(array[{g}], array[{n}])::text = ''"),
    ("find_waits", "select (conductor.find_waits({n}, {payload}::jsonb, clock_timestamp(), {b}, {n} || '9', 9)).executions is null"),
    ("hold_listeners", "select conductor.hold_listeners({n}, {g}, array[{b}]) = array[{b}]"),
    ("hand_over", "select conductor.hand_over({n}, e, {payload}::jsonb, '{}', '{}', '{}', clock_timestamp()) is null
         from (select {g} as event_id, clock_timestamp() as emitted_at, clock_timestamp() as at, {payload}::json as payload) e"),
    ("deliver", "select conductor.deliver({n}, 100)"),
    ("take_inbox", "select t.ids is null from conductor.take_inbox(array[{n}], 9, 9) t"),
    ("try_lock_events", "select conductor.try_lock_events(array[{n}]) = array[{n}]"),
    ("checked_names", "select conductor.checked_names(array[{h}], array[{n}], array[{payload}]) = array[{n}]"),
    ("emit_many", "select conductor.emit_many(array[{h}], array[{n}], array[{payload}], false)::text = ''"),
    ("emit", "select conductor.emit({n}, jsonb_build_object({n}, {n})) is not null"),
    ("decide", "select conductor.decide(array[{b}], array[{b}], array[{n} || '5'], array[{b}], array[{n} || '5'])::text = ''"),
    ("withdraw", "select conductor.withdraw(array[{b}], array[{n} || '5']) is null"),
    ("catch_up", "select (conductor.catch_up(array[{b}], array[{n}], clock_timestamp())).behind is null"),
    ("event_keep", "select conductor.event_keep({n}) = 1e9 * interval '1 ms'"),
    ("note_event_paths", "select conductor.note_event_paths(array[{b}], array[{n}])::text = ''"),
    ("noted_hashes", "select count(*) >= 0 from conductor.noted_hashes({n}, {payload}::jsonb)"),
    ("filter_field", "select coalesce((conductor.filter_field({filter})).hash, 0) = conductor.filter_hash({filter})"),
    ("as_time", "select conductor.as_time({n}) is null"),
    ("as_uuid", "select conductor.as_uuid({n}) is null"),
    ("careful_field", "select conductor.careful_field(json_build_object({n}, {n}), {n}) = {n}"),
    ("careful_jsonb", "select conductor.careful_jsonb(to_json({n})) = to_jsonb({n})"),
    ("careful_key", "select conductor.careful_key(json_build_object({n}, {n}), array[{n}]) = {n}"),
    ("json_field", "select conductor.json_field(json_build_object({n}, {n}), {n}) = {n}"),
    ("lane_key", "select conductor.lane_key(json_build_object({n}, {n}), array[{n}]) = {n}"),
    ("short_key", "select conductor.short_key({n}) in ({n}, md5({n}))"),
    ("order_key", "select conductor.order_key(array[{n}], json_build_object({n}, {n})) in ({n}, md5({n}))"),
    ("json_fault", "select conductor.json_fault(to_json({n})) is null"),
    ("is_plain", "select conductor.is_plain(to_json({n})) is not null"),
    ("check_payload", "select conductor.check_payload(json_build_object({n}, {n}))::text = ''"),
    ("is_invoke", "select conductor.is_invoke({a}, {value}, null, null)"),
    ("is_keyed", "select conductor.is_keyed({n}, null, null, null, null, null)"),
    ("as_jsonb", "select conductor.as_jsonb(to_json({n})) = to_jsonb({n})"),
    ("compares", "select conductor.compares('eq', to_jsonb({n}), to_jsonb({n}), {n})
                     and not conductor.compares({n}, to_jsonb({n}), to_jsonb({n}), 'time')"),
    ("matches", "select conductor.matches({filter}, {payload}::jsonb) and not conductor.matches(to_jsonb({n}), to_jsonb({n}))
                    and not conductor.matches({filter}, jsonb_build_object({n}, {n} || ' '))"),
    ("field_hash", "select conductor.field_hash(array[{n}], to_jsonb({n})) = any (conductor.field_hashes({payload}::jsonb))"),
    ("field_hashes", "select cardinality(conductor.field_hashes({payload}::jsonb)) = 2"),
    ("filter_hash", "select conductor.filter_hash({filter}) = any (conductor.field_hashes({payload}::jsonb))"),
    ("filter_number", "select conductor.filter_number({n}, {filter}) <> conductor.filter_number({n} || ' ', {filter})"),
    // Schedules; no worker reads these rules.
    ("check_schedule", "select conductor.check_schedule({n}, {n}, 'UTC')::text = ''"),
    ("schedule", "select conductor.schedule({n}, {n}, {n}, {value}::json)::text = ''"),
    ("changed_rule", "select count(*) = 1 from conductor.schedules s, conductor.changed_rule(s, {n}, {n}, clock_timestamp())
                       where s.name = {n}"),
    ("pause_schedule", "select conductor.pause_schedule({n}, {n})"),
    ("resume_schedule", "select conductor.resume_schedule({n}, {n})"),
    ("trigger_schedule", "select conductor.trigger_schedule({n}, {n}) is not null"),
    ("declare_schedules", "select count(*) = 1 from conductor.declare_schedules(array[{n}], jsonb_build_array(jsonb_build_object(
         'task', {n}, 'name', {n} || '2', 'owner', {n}, 'cron', {n}, 'timezone', {n}, 'missed', 'once', 'overlap', 'allow')))"),
    ("tick", "select count(*) = 1 from conductor.schedules s, conductor.tick(
         array[s.id], array[s.version], array[clock_timestamp() + interval '1 hour'], array[{n}], array[s.id], array[{i}],
         array[clock_timestamp()], array[{payload}]) t where s.name = {n} and t = 1"),
    ("make_ticks", "select count(*) = 1 from conductor.schedules s, conductor.make_ticks(
         '{}', array[s.id], array[{i}], array[clock_timestamp()], array[{payload}], clock_timestamp()) q
         where s.name = {n} and q is null"),
    ("unschedule", "select conductor.unschedule({n}, {n})"),
    ("set_paused", "select conductor.set_paused({n}, true)"),
    ("resume_queue", "select conductor.resume_queue({n})"),
    ("pause_queue", "select conductor.pause_queue({n})"),
    ("wait_for_lock", "select conductor.wait_for_lock(hashtextextended({n}, 0), true, {n})::text = ''"),
    // How a, c and d end.
    ("complete", "select conductor.complete(array[{a}], array[1], array[{value}]) = 1"),
    ("fail", "select conductor.fail(array[{d}], array[1], array[{n}], array[true], {numbers}) = 1"),
    ("cancel", "select conductor.cancel({c}, {n})"),
    ("replace", "select conductor.replace(array[md5('z' || {n})::uuid], array[{a}], array[1::bigint], array[{value}], {times}, {numbers},
         {numbers}, {priorities}, clock_timestamp()) is null"),
    ("leave_unreadable", "select conductor.leave_unreadable({orchestrator}, array[{c}], array[99], array[{n}]) = 0"),
    ("finish_and_claim", "select count(*) = 0 from conductor.finish_and_claim(
         array[{c}], array[1], array[{value}], '{}', '{}', '{}', '{}', '{}', '{}', {orchestrator}, {queue}, array[{task}],
         '{}', '{}', '{}', 0, false, '{}', '{}', '{}', 9, '{}', '{}', '{}', '{}', '{}', 0)"),
    // A table of this name, with a column of this name.
    ("declare_row_triggers", "select conductor.declare_row_triggers(array[{n}], array[{task}], (
         select jsonb_agg(jsonb_build_object('task', {n}, 'relation', {table}::oid, 'op', op, 'columns', array[{n}],
                    'changed', case op when 'update' then array[{n}] end, 'filter', {change}, 'owner', {n}))
           from unnest(array['insert', 'update']) op))::text = ''"),
    ("check_row_table", "select conductor.check_row_table({table}, 'insert')::text = ''"),
    ("row_columns", "select conductor.row_columns({table}, array[{n}], true) is not null"),
    ("row_value", "select conductor.row_value({n}, 25) = {n}"),
    ("make_row_trigger", "select conductor.make_row_trigger({table}, 'insert')::text = ''"),
    ("rows_query", "select conductor.rows_query({table}, 'update', array[{n}], array[{n}], array[{n}]) is not null"),
    ("change_id", "select conductor.change_id(7, 1, '8000000000000000') = '00000000-0000-7008-8000-000000000000'"),
    ("take_changes", "select not conductor.take_changes(
         ({n}, array[{n}], null, {filter}, {task}, {queue}, 0, null, {n})::conductor.row_rule,
         array[json_build_object({n}, {n} || ' ')], json_build_object({n}, {n}), clock_timestamp(), 7,
         '8000000000000000')"),
    ("row_trigger_sql", "select conductor.row_trigger_sql({table}, 'insert') is not null
                            and conductor.row_trigger_sql({table}, {n}) is null"),
    ("install_row_trigger", "select conductor.install_row_trigger({table}, 'insert', '1 s')::text = ''"),
    ("install_row_trigger", "select conductor.install_row_trigger({table}, 'update', '1 s')::text = ''"),
    ("install_row_trigger", "select conductor.install_row_trigger({table}, 'delete', '1 s')::text = ''"),
    ("remove_row_trigger", "select conductor.remove_row_trigger({table}, 'delete', '1 s')
                               and conductor.remove_row_trigger({table}, {n}, '1 s')"),
    ("row_trigger", "select r.name = 'conductor_update' from conductor.row_trigger({table}, 'update') r"),
    ("watch_rows", "select r.installed from conductor.watch_rows({table}, 'insert', array[{n}], array[{n}], true, '1 s') r"),
    ("watch_rows", "select r.installed from conductor.watch_rows({table}, 'update', array[{n}], array[{n}], true, '1 s') r"),
    ("see_row_rules", "select conductor.see_row_rules({table}, {n})::text = ''"),
    ("row_rules_have_changed", "select coalesce(conductor.row_rules_have_changed(array[{table}], array[{n}])::text, '') = ''"),
    ("note_row_fault", "select conductor.note_row_fault({table}, {n}, null, {n}, {n})::text = ''"),
];

/// What must be refused in words, with the code.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("CD001", "select conductor.invoke({n} || '?')"),
    (
        "CD001",
        "select conductor.refuse_unknown(array[{n} || '?'])",
    ),
    (
        "CD002",
        "select conductor.schedule({n}, {n}, {n}, missed => {n})",
    ),
    ("CD002", "select conductor.check_schedule({n}, {n}, {n})"),
    ("CD002", "select conductor.check_row_table({table}, {n})"),
    ("CD002", "select conductor.make_row_trigger({table}, {n})"),
    (
        "42703",
        "select conductor.row_columns({table}, array[{n} || '?'], true)",
    ),
    (
        "CD002",
        "select conductor.refuse_invoke(1, {a}, {value}, null, null, repeat({n}, 999), null, null, null)",
    ),
    (
        "CD002",
        "select conductor.refuse_keyed(array[{e}], array['1'], {times}, {numbers}, array[repeat({n}, 999)], {numbers}, {numbers}, {numbers})",
    ),
    ("CD002", "select conductor.emit('conductor:' || {n})"),
    (
        "CD002",
        "select conductor.install_row_trigger({table}, {n}, '1 s')",
    ),
    (
        "CD002",
        "select conductor.watch_rows({table}, {n}, array[{n}], array[{n}], true, '1 s')",
    ),
    (
        "22P02",
        "select conductor.invoke_many(array[{e}], array[{n}], array['\"' || {n}], {times}, {numbers}, {priorities}, false, false)",
    ),
];

/// What must have come back, to the byte.
pub(super) const KEPT: &[&str] = &[
    "select (f.output::text, f.payload::text, f.error is null) = ({value}, {payload}, true)
       from conductor.finished_executions f where f.id = {a}",
    "select (f.state::text, f.error) = ('failed', {n}) from conductor.finished_executions f where f.id = {d}",
    "select (f.state::text, f.error, f.dedupe_key) = ('cancelled', {n}, {n})
       from conductor.finished_executions f where f.id = {c}",
    "select (f.state::text, f.error) = ('failed', {n}) from conductor.finished_executions f where f.id = {f}",
    "select (s.kind, s.value::text) = ({n}, {value}) from conductor.steps s where s.execution_id = {a} and s.key = {n}",
    "select s.value::text = {value} from conductor.steps s where s.execution_id = {b} and s.key = {n} || '2'",
    "select s.value #>> array['payload', {n}] = {n} from conductor.steps s where s.execution_id = {b} and s.key = {n}",
    "select count(*) = 2 from conductor.events e where e.name = {n} and e.payload::text = {payload}",
    "select count(*) = 2 from conductor.executions x
      where x.task = {n} and x.trigger ->> 'kind' = 'event' and x.trigger ->> 'name' = {n}",
    "select count(*) = 2 from conductor.executions x
      where x.task = {n} and x.trigger ->> 'kind' = 'schedule' and x.trigger ->> 'name' = {n}",
    "select array_agg(x.payload #>> array['new', {n}] order by x.id) = array[{n}, {n}]
       from conductor.executions x where x.task = {n} and x.trigger ->> 'kind' = 'row'
        and x.trigger ->> 'table' = format('public.%I', {n})",
    "select count(*) = 2 from conductor.event_inbox i
      where i.name like 'conductor:%' and i.payload #>> array['new', {n}] = {n}",
    "select (t.place, t.docs, t.payload_schema #>> '{}') = ({n}, {n}, {n}) from conductor.tasks t where t.name = {n}",
    "select (s.cron, s.timezone, s.owner) = ({n}, {n}, {n}) from conductor.schedules s where s.name = {n} || '2'",
    "select (r.code, r.message) = ({n}, {n}) from conductor.row_faults r where r.op = {n}",
    "select q.paused from conductor.queues q where q.name = {n}",
    "select (l.columns, l.filter #>> array['value']) = (array[{n}], {n}) from conductor.row_triggers l
      where l.relation = {table} and l.op = 'update'",
];
