{# The histories hold every landed row ever with its outcome. They are read before they are written, so the first run
   finds them empty instead of not at all. #}
{% macro create_histories() %}
    {% if execute and flags.WHICH in ('build', 'run', 'test') %}
        {% set landed = 'arrival_hour timestamp, source varchar, file varchar, row_number bigint' %}
        {% set tables = {
            'int_event_history': landed ~ ', event_key varchar, user_id varchar, item_id varchar, event_type varchar,
                event_ts timestamp, "value" double, weight double, "text" varchar, session_id varchar,
                attributes varchar, deleted boolean, raw varchar, outcome varchar, reason varchar,
                excluded_at timestamp',
            'int_item_history': landed ~ ', preference bigint, item_id varchar, kind varchar, title varchar,
                description varchar, categories varchar[], creator_id varchar, price double, published_at timestamp,
                available_from timestamp, available_until timestamp, attributes varchar, raw varchar,
                outcome varchar, reason varchar',
            'int_user_history': landed ~ ', user_id varchar, created_at timestamp, attributes varchar, raw varchar,
                outcome varchar, reason varchar',
            'int_batches': 'landed_table varchar, arrival_hour timestamp, n_landed bigint, fingerprint varchar,
                rules varchar'
        } %}
        {% for name, columns in tables.items() %}
            {% set relation = api.Relation.create(
                database='lake', schema=target.schema, identifier=name, type='table'
            ) %}
            {% if load_relation(relation) is none %}
                {% do run_query('create table if not exists ' ~ relation ~ ' (' ~ columns ~ ')') %}
                {% do adapter.cache_added(relation) %}
            {% endif %}
        {% endfor %}
        {# A row group is in memory until it is written, and by default ends by its rows alone, however long. #}
        {% if env_var('LAKE_READ_ONLY', 'False') == 'False' %}
            {% do run_query("call lake.set_option('parquet_row_group_size_bytes', '32MB')") %}
        {% endif %}
    {% endif %}
{% endmacro %}

{# Incremental strategy `rewrite`: the rows of the table that meta.rewrites covers become the model's rows, and a row
   that stays as it was is left alone, so that the lake's change feed says what changed and nothing else.
   meta.rewrites: a list of {model, by: [column, ...]}; a row is covered when its columns are in one of the models;
   or the word 'all'. meta.long: columns of long text, compared by their hash, which is what the join then holds. #}
{% macro get_incremental_rewrite_sql(arguments) %}
    {% set target = arguments['target_relation'] %}
    {% set fresh = arguments['temp_relation'] %}
    {% set key = config.get('unique_key') %}
    {% set names = arguments['dest_columns'] | map(attribute='name') | list %}
    {% set long = config.get('meta').get('long', []) %}
    {% set same %}
        {%- for name in names %}
        {{ 'and ' if not loop.first }}{{ 'md5_number(' if name in long }}fresh."{{ name }}"{{ ')' if name in long }}
            {{ '=' if name in key else 'is not distinct from' }}
            {{ 'md5_number(' if name in long }}earlier."{{ name }}"{{ ')' if name in long }}
        {%- endfor %}
    {% endset %}
    {% set rewrites = config.get('meta')['rewrites'] %}
    {# Joins, and not `not exists`: of that, DuckDB would hold every compared row in memory. #}
    delete from {{ target }}
    where rowid in (
        select earlier.rowid
        from {{ target }} as earlier
        anti join {{ fresh }} as fresh on {{ same }}
        {% if rewrites != 'all' %}
        where
            {% for rewrite in rewrites %}
            {{ 'or ' if not loop.first }}exists (
                select 1
                from {{ ref(rewrite['model']) }} as covering
                where
                    {% for column in rewrite['by'] %}
                    {{ 'and ' if not loop.first }}covering.{{ column }} = earlier.{{ column }}
                    {% endfor %}
            )
            {% endfor %}
        {% endif %}
    );

    insert into {{ target }} ("{{ names | join('", "') }}")
    select fresh."{{ names | join('", fresh."') }}"
    from {{ fresh }} as fresh
    anti join {{ target }} as earlier on {{ same }}
{% endmacro %}

{# What a run touches is remembered in a file before the first mart is written. A run that did not end well may have
   written marts of rows that are in no history: the next run reads its files (source `touched`) and sets those right. #}
{% macro remember_touched() %}
    copy (select * from {{ this }})
    to '{{ env_var("LAKE_TOUCHED") | replace("'", "''") }}/{{ this.identifier }}-{{ invocation_id }}.parquet' (format parquet)
{% endmacro %}

{# A dry run leaves nothing in the lake: what the touched users and items would become goes into files. #}
{% macro keep_dry_run() %}
    {% set folder = env_var('LAKE_DRY_RUN', '') %}
    {% if execute and folder %}
        {% for name in ['fct_interactions', 'fct_user_texts', 'int_item_outcomes', 'int_user_outcomes'] %}
            {% do run_query(
                'copy (from memory.' ~ target.schema ~ '.' ~ name ~ ") to '" ~ (folder | replace("'", "''"))
                ~ '/' ~ name ~ ".parquet' (format parquet)"
            ) %}
        {% endfor %}
    {% endif %}
{% endmacro %}
